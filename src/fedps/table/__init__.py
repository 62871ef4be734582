"""What a server remembers: tables of rows, the rules that change them, and how they are saved. No torch, no sockets."""
