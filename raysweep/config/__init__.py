"""Every option, grid files, YAML."""
