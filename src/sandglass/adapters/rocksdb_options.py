"""How RocksDB is set up for the view; the reasons are in docs/internals/view-storage.md."""

from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, WriteOptions

WRITE_BUFFER_BYTES: Final = 16 * 1024 * 1024
"""One memtable. At most MEMTABLE_COUNT_MAX of them: what this store holds unflushed."""

MEMTABLE_COUNT_MAX: Final = 6
"""One to write to, the others being flushed or in reserve. Small ones, and more of them: a row
in random order costs half as much in a memtable of 16 MiB as in one of 32. From four on RocksDB
slows writes down before it stops them, and with `no_slowdown` both are refusals."""

FLUSH_BYTES: Final = 12 * 1024 * 1024
"""So much in memory is worth a flush. RocksDB starts one by itself at WRITE_BUFFER_BYTES."""

CACHE_BYTES: Final = 64 * 1024 * 1024
OPEN_FILE_COUNT_MAX: Final = 512
BLOB_BYTES_MIN: Final = 4096
"""Values from here on live in blob files: compactions then move keys, not values."""

LEVEL0_COMPACTION_COUNT: Final = 4
LEVEL0_SLOWDOWN_COUNT: Final = 20
LEVEL0_STOP_COUNT: Final = 36

assert FLUSH_BYTES <= WRITE_BUFFER_BYTES
assert LEVEL0_COMPACTION_COUNT < LEVEL0_SLOWDOWN_COUNT < LEVEL0_STOP_COUNT


def write_options() -> WriteOptions:
    """No log of its own, and no write that waits."""
    options = WriteOptions()
    # Its stub calls it a method; it is an attribute.
    options.disable_wal = True  # pyright: ignore[reportAttributeAccessIssue]
    options.no_slowdown = True
    return options


def database_options(write_buffer_bytes: int, cache: Cache) -> Options:
    """Blocks, memtables, levels, blobs, and what it leaves in its directory."""
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(_blocks(cache))
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_write_buffer_number(MEMTABLE_COUNT_MAX)
    options.set_target_file_size_base(32 * 1024 * 1024)
    options.set_level_zero_file_num_compaction_trigger(LEVEL0_COMPACTION_COUNT)
    options.set_level_zero_slowdown_writes_trigger(LEVEL0_SLOWDOWN_COUNT)
    options.set_level_zero_stop_writes_trigger(LEVEL0_STOP_COUNT)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_enable_blob_files(True)
    options.set_min_blob_size(BLOB_BYTES_MIN)
    options.set_blob_compression_type(DBCompressionType.none())
    options.set_enable_blob_gc(True)
    options.set_blob_gc_age_cutoff(0.05)
    options.set_blob_gc_force_threshold(0.5)
    # Retry rows and cursors leave many deletions: a file full of them is compacted early.
    options.add_compact_on_deletion_collector_factory(8192, 4096, 0.5)
    options.set_max_open_files(OPEN_FILE_COUNT_MAX)
    options.set_avoid_unnecessary_blocking_io(True)
    options.set_keep_log_file_num(4)
    options.set_max_log_file_size(4 * 1024 * 1024)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def _blocks(cache: Cache) -> BlockBasedOptions:
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_block_size(16 * 1024)
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
    return blocks
