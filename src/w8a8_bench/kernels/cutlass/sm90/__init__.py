"""Device code for Hopper (sm_90a)."""
