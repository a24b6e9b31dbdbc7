"""Assignment, exposure, statistics and controller of experiments. Nothing here reads or writes."""
