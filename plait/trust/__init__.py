"""Admission: keys, certificates, start-up kits and revocation."""
