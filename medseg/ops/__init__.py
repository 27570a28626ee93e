"""Stateless tensor mathematics shared by methods: (B, C, *spatial) in and out."""
