"""What is worked out from records: ratios, roofline, pairing."""
