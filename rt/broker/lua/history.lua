-- The top of a channel's stream, and publications of it, as they are at one moment.
--
-- KEYS  meta, stream
-- ARGV  fresh        '1' when the lineage was read again because this very call was refused
--       candidate    the epoch to begin, should one have to begin
--       meta_ttl     life of the metadata, in milliseconds
--       epoch        with offset, the position to read from (exclusive); '' reads the whole stream
--       offset
--       limit        publications to give at most: '0' only the top, '-1' all
--       reverse      '1' gives the newest first, downwards from the position
-- Gives {epoch, offset, entries}. A position of another epoch gives no entries: the caller compares epochs.
-- Refuses with LINEAGE; then nothing was done.
--
-- A stream that was trimmed shows in the first entry, one that expired or was evicted in a top without entries.

local fresh, candidate, meta_ttl, since_epoch, since_offset, limit, reverse = unpack(ARGV)

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'lineage', 'version')
local epoch, offset = meta[1], tonumber(meta[2]) or 0

if epoch and LINEAGE ~= '' and meta[3] ~= LINEAGE then
    if fresh ~= '1' then
        return redis.error_reply('LINEAGE the stream was written under another lineage')
    end
    epoch = false
end

if not epoch then
    redis.call('HSET', KEYS[1], 'epoch', candidate, 'offset', 0, 'lineage', LINEAGE)
    if meta[4] then
        redis.call('HDEL', KEYS[1], 'version', 'version_epoch')
    end
    redis.call('DEL', KEYS[2])
    redis.call('PEXPIRE', KEYS[1], meta_ttl)
    return {candidate, 0, {}}
end

-- Who asks keeps the epoch alive. Only now and then, since every write goes to the replicas and the log.
if redis.call('PTTL', KEYS[1]) < tonumber(meta_ttl) / 2 then
    redis.call('PEXPIRE', KEYS[1], meta_ttl)
end

if limit == '0' or (since_epoch ~= '' and since_epoch ~= epoch) then
    return {epoch, offset, {}}
end

local command, first, last = 'XRANGE', '-', '+'
if reverse == '1' then
    command, first, last = 'XREVRANGE', '+', '-'
end
if since_epoch ~= '' then
    local since = tonumber(since_offset)
    if reverse == '1' then
        if since <= 1 then
            return {epoch, offset, {}}
        end
        first = string.format('%.0f-0', since - 1)
    else
        if since >= offset then
            return {epoch, offset, {}}
        end
        first = string.format('%.0f-0', since + 1)
    end
end

if limit == '-1' then
    return {epoch, offset, redis.call(command, KEYS[2], first, last)}
end
return {epoch, offset, redis.call(command, KEYS[2], first, last, 'COUNT', limit)}
