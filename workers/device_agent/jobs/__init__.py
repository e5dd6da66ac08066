"""Jobs on a device: the process a job runs in, and who starts, watches and reports it."""
