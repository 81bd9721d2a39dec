"""rpcsim: a whole RPC system inside one test, deterministic, or on real sockets."""
