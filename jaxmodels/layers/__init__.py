"""Layers shared by several networks: attention, blocks, recurrent layers, positions, dropout."""
