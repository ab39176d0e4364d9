"""What the numbers are taken on: devices, what they can do, versions, telemetry."""
