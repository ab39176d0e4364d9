"""The libraries whose kernels are measured: `registry` lists them, and each library has one module here."""
