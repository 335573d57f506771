"""The command ``spikeseg``; ``spikeseg --help`` tells the rest."""
