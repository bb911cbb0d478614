"""stub"""
def over_grpc(scratch, *, full): return {}
