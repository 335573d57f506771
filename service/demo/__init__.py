"""The bundled demo recording, and the command that makes it."""
