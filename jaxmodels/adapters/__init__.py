"""Models made of a model: precision, rematerialisation, recurrent state."""
