"""Starts each job as one task of Ray, the door to it: on this machine, or on the nodes of a cluster."""
