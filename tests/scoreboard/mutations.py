def take_out_named():
    pass
