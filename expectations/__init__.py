"""Great Expectations suites and the gate that fails closed; they come with the nightly pipeline."""
