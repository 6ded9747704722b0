"""A soak's parts: what is planned by a seed, the storm, the people, the witnesses, the checks."""
