"""Who may take part: keys, certificates, start-up kits and revocation."""
