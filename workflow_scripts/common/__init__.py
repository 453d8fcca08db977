"""What every layer uses: errors, progress, optional packages, devices."""
