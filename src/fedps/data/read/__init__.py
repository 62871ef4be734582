"""From client files to samples."""
