"""What is said between a worker and a server: bytes in, bytes out, no sockets."""
