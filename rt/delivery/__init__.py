"""This worker's part: who is subscribed here, at which position, what may wait for whom, and what happens when it is
too much."""
