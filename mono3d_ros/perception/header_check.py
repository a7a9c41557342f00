"""Check the header of an image: faults that leave boxes without a time or a place."""

from __future__ import annotations

#: Stamps further ahead of the clock than this are a fault; cameras and buses differ by less.
MAX_AHEAD_NS = 500_000_000


def header_fault(stamp_ns: int, frame_id: str, now_ns: int) -> str:
    """
    Return the faults of the header of an image; '' if it has none.

    :param stamp_ns: its stamp.
    :param frame_id: its frame.
    :param now_ns: current time on the clock of the stamps; 0 if not known (yet).
    """
    faults = []
    if stamp_ns == 0:
        faults.append('its stamp is 0: the driver sets none, so tf and tracks cannot place it')
    elif now_ns > 0 and stamp_ns - now_ns > MAX_AHEAD_NS:
        seconds = (stamp_ns - now_ns) / 1e9
        faults.append(
            f'its stamp is {seconds:.1f} s in the future: synchronise the clocks (PTP, NTP), or '
            'set use_sim_time for bags and simulations'
        )
    if not frame_id:
        faults.append('its frame_id is empty: set the optical frame of the camera in its driver')
    return '; '.join(faults)
