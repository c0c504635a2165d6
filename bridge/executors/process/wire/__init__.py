"""What travels between a parent and its worker processes, and how; both sides import it, so it imports little."""
