"""A ring between looking and waiting is not lost."""

import threading

from agent.bell import Bell

LONG = 60.0  # seconds that nobody here waits out: a lost ring is a failed join


def in_time(target):
    """Whether it ends long before a lost ring would let it."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()


def test_a_ring_after_the_look_and_before_the_wait_ends_the_wait_at_once():
    bell = Bell()
    looked = bell.rings
    bell.ring()
    assert in_time(lambda: bell.wait(LONG, since=looked))


def test_a_ring_wakes_everybody_who_waits():
    bell = Bell()
    looked = bell.rings
    entered = threading.Barrier(5)

    def wait():
        entered.wait()
        bell.wait(LONG, since=looked)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    entered.wait()
    bell.ring()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


def test_a_ring_from_before_the_look_is_old_news():
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.rings == 2
    returned = threading.Event()

    def wait():
        bell.wait(LONG, since=bell.rings)
        returned.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert not returned.wait(0.05)
    bell.ring()
    assert returned.wait(10)
    thread.join(10)


def test_without_a_ring_it_waits_for_the_seconds():
    bell = Bell()
    assert in_time(lambda: bell.wait(0.01, since=bell.rings))


class Shop:
    """Work that some hand in and ring for, and others look for, then wait."""

    def __init__(self):
        self.bell, self.work, self.done = Bell(), [], []
        self.closed = False

    def hand_in(self):
        for number in range(2000):
            self.work.append(number)
            self.bell.ring()

    def take(self):
        while not self.closed:
            rings = self.bell.rings
            while self._took_one():
                pass
            if len(self.done) == 4000:
                self.closed = True
                self.bell.ring()
            self.bell.wait(LONG, since=rings)

    def _took_one(self):
        try:
            self.done.append(self.work.pop())
        except IndexError:
            return False
        return True


def test_every_piece_of_work_is_found_by_who_looks_then_waits():
    """Two take and two hand in: one lost ring would leave work lying for a minute."""
    shop = Shop()
    targets = (shop.take, shop.take, shop.hand_in, shop.hand_in)
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert (len(shop.done), shop.work) == (4000, [])
