"""The quality gate: Great Expectations suites over profiles of a day, and the verdict; ``expectations.gate`` is the way in."""
