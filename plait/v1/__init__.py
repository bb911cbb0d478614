"""Protobuf classes generated from proto/plait/v1; only plait.wire imports them."""
