"""How an image is pulled, on any engine.

pull       `ensure_image`: look, check, lock, pull with retries
lock       flock per image
observer   reports while a pull goes on; progress: its events, folded
private    marks of images that came with credentials
auth       registries' names and log-ins
failures   classes and sentences of pulls that failed
"""
