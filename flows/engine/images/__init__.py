"""How an image is pulled, on any engine.

pull       `ensure_image`: look, check, lock, pull with retries
progress   a pull's events, folded and reported
lock       flock per image
auth       registries' names and log-ins, and marks of images that came with one
failures   classes and sentences of pulls that failed
"""
