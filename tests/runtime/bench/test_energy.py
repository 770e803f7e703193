"""Energy counters in a made-up /sys."""

import pytest

from switchkd.runtime.bench import energy
from switchkd.runtime.bench.energy import open_meter


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


def rapl(sys, folder, microjoules, name="package-0", wrap=1000):
    write(sys / "class/powercap" / folder / "name", name)
    write(sys / "class/powercap" / folder / "energy_uj", microjoules)
    write(sys / "class/powercap" / folder / "max_energy_range_uj", wrap)


def test_packages_are_added_and_wrap_around(tmp_path):
    rapl(tmp_path, "intel-rapl:0", 900)
    rapl(tmp_path, "intel-rapl:1", 100, "package-1")
    rapl(tmp_path, "intel-rapl:0:0", 500, "core")  # in the package
    rapl(tmp_path, "intel-rapl:2", 300, "psys")  # the platform with both packages in it
    meter = open_meter(tmp_path)
    assert "RAPL" in meter.name and meter.joules() == 0
    rapl(tmp_path, "intel-rapl:0", 50)
    rapl(tmp_path, "intel-rapl:1", 130, "package-1")
    rapl(tmp_path, "intel-rapl:0:0", 700, "core")
    rapl(tmp_path, "intel-rapl:2", 900, "psys")
    assert meter.joules() == pytest.approx((150 + 30) / 1e6)
    assert meter.joules() == pytest.approx(180 / 1e6)
    meter.close()


def rail(sys, number, name, millivolts, milliamperes):
    folder = sys / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    write(folder / f"in{number}_label", name)
    write(folder / f"in{number}_input", millivolts)
    write(folder / f"curr{number}_input", milliamperes)


def test_a_modules_rails_are_added_up_over_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(energy.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(energy, "_PERIOD", 3600)  # the thread waits
    rail(tmp_path, 1, "VDD_IN", 5000, 2000)  # 10 W
    rail(tmp_path, 2, "VDD_CPU_GPU_CV", 5000, 1000)  # a part of it
    meter = open_meter(tmp_path)
    assert meter.name == "INA3221, VDD_IN"
    now[0] = 2.0
    assert meter.joules() == pytest.approx(20)
    rail(tmp_path, 1, "VDD_IN", 5000, 4000)  # 20 W
    now[0] = 3.0
    assert meter.joules() == pytest.approx(20 + 15)
    meter.close()
    assert not meter._thread.is_alive()


def test_without_an_input_rail_all_are_added(tmp_path):
    rail(tmp_path, 1, "VDD_CPU", 5000, 1000)
    rail(tmp_path, 2, "VDD_SOC", 5000, 1000)
    meter = open_meter(tmp_path)
    assert meter.name == "INA3221, VDD_CPU, VDD_SOC" and meter._watts() == pytest.approx(10)
    meter.close()


def test_no_counter_or_one_that_may_not_be_read(tmp_path):
    assert open_meter(tmp_path) is None
    rapl(tmp_path, "intel-rapl:0", 1, "psys")
    assert open_meter(tmp_path) is None
    rapl(tmp_path, "intel-rapl:0", 1)
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").unlink()  # root may read this file as it likes
    assert open_meter(tmp_path) is None
