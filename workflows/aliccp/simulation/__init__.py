"""Ali-CCP as it might have been: users, items, tastes and clicks drawn from a seed."""
