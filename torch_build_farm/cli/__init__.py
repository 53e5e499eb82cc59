"""What people type and read: one module a command, `main` for arguments and exit codes, `report` for output."""
