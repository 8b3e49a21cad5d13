"""What people see while something trains."""
