"""The spill store beside disks that crash, tear, fill up and fail."""
