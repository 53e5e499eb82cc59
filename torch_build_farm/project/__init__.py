"""What is built: settings, variants, the source tree, its metadata, and the plan of jobs."""
