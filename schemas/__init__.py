"""What things look like: event, attribute catalogue, rules, view, profile row. No I/O, no Beam."""
