"""Many comparisons: `plan` lays them out, `drive` deals them out to devices, `survive` sees one through its faults.

`team` has the processes of one device measure it, `process` holds one such process, and `worker` is what runs in it.
"""
