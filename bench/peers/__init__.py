"""What scripts/bench measures: gpumig beside everything that a user could use instead, one module for each.

Standard library only. Every process that is started here is ended here, by its pid; all runs inside the two nodes that
scripts/two-nodes makes, so that each peer has the same network, the same mounts and the same host.
"""
