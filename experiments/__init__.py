"""Assignment, exposure, statistics and controller of experiments; they come with the serving layer."""
