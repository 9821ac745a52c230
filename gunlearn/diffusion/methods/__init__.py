"""Methods that only denoisers have; `gunlearn.methods.METHODS` names them."""
