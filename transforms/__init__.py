"""What is done to events and views: pure functions, and the Beam PTransforms of the same names that wire them."""
