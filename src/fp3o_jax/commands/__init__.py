"""What all commands of ``fp3o`` have in common: how they print, what they read, how they are explained."""
