"""What keeps secrets in what has to be sent, and the attacks by which that is measured; arrays in, arrays out."""
