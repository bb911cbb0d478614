from plait.simulation.simulation import SimulatedMemory, VolatileMemory, shared_bytes


def test_clients_of_one_process_that_keep_the_same_bytes_share_one_copy():
    shared = shared_bytes()
    memories = [VolatileMemory(shared) for _ in range(3)]
    for memory in memories:
        memory.save("adapter", bytes([7]) * 1000)
    assert len({id(memory.load("adapter")) for memory in memories}) == 1


def test_what_is_shared_is_never_anothers():
    shared = shared_bytes()
    alice, bob = VolatileMemory(shared), VolatileMemory(shared)
    alice.save("adapter", b"a")
    bob.save("adapter", b"b")
    assert (alice.load("adapter"), bob.load("adapter"), bob.load("spec")) == (b"a", b"b", None)


def test_what_could_not_be_sent_again_survives_the_process(tmp_path):
    def memory(name):
        return SimulatedMemory(VolatileMemory(shared_bytes()), tmp_path / "clients" / name)

    first = memory("ada")
    first.save("residual", b"owed")
    first.save("adapter", b"sent again when lost")
    after_a_kill = memory("ada")
    assert after_a_kill.load("residual") == b"owed"
    assert after_a_kill.load("adapter") is None
    assert memory("bob").load("residual") is None
