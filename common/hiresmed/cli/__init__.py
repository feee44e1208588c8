"""The command `hiresmed`, and `door.open_door`, with which every config begins. Imports nothing, so that the command
answers at once.
"""
