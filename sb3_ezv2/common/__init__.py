"""What every room uses: the records that travel between them, spaces, tensors, checks of arguments, compilation.

It imports nothing of the other rooms.
"""
