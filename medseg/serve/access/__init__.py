"""Who may use the label server: hosts, origins, the token, and the addresses that are answered."""
