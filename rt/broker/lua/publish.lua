-- Append one publication to its channel's stream and hand it to every worker that is subscribed, in one step.
--
-- KEYS  meta, stream, and with an idempotency key the saved result of that key. All carry the channel's hash tag.
-- ARGV  fresh        '1' when the lineage was read again because this very call was refused
--       channel      name of the channel's pub/sub
--       candidate    the epoch to begin, should one have to begin
--       size         publications that the stream keeps; '0' publishes without history
--       ttl          life of the stream after its last publication, in milliseconds
--       meta_ttl     life of the metadata, in milliseconds
--       window       life of the saved result, in milliseconds
--       time         when the publish was accepted, in microseconds
--       body
--       version      with version_epoch, only where the publication has one: decimal digits. One that is not above the last of
--       version_epoch  the same version epoch, or of any when this one is '', is not published.
-- Gives {epoch, offset, what}; without history the position is '' and 0. What is 0 for a new publication, 1 when the key was seen
-- before, 2 when the version is old: then the position is the top. A fourth value is how many connections heard a new one.
-- Refuses with LINEAGE; then nothing was done.
--
-- LINEAGE is a literal in front of this text ('' switches the fence off), so a server that lost its data, or never had it,
-- does not know the script.
--
-- The first write is one that the server denies when it is out of memory, read-only or cannot persist. After it a script is
-- no longer refused for such reasons, so a refusal means that nothing was done.

local fresh, channel, candidate, size, ttl, meta_ttl, window, time, body, version, version_epoch = unpack(ARGV)

local saved = KEYS[3] and redis.call('GET', KEYS[3])

if size == '0' then
    if saved then
        local epoch, offset = string.match(saved, '^(.*):(%d+)$')
        return {epoch, tonumber(offset), 1}
    end
    if KEYS[3] then
        redis.call('SET', KEYS[3], ':0', 'PX', window)
    end
    return {'', 0, 0, redis.call('PUBLISH', channel, '1p::0:' .. time .. ':' .. body)}
end

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'lineage', 'version')
local epoch, last_version = meta[1], meta[3]

if epoch and LINEAGE ~= '' and meta[2] ~= LINEAGE then
    if fresh ~= '1' then
        return redis.error_reply('LINEAGE the stream was written under another lineage')
    end
    epoch = false
end

-- A result of another epoch stands for a publication that can no longer be recovered: it is published anew. One that was
-- published without history was handed to the workers, and that is all it ever promised.
if saved then
    local saved_epoch, saved_offset = string.match(saved, '^(.*):(%d+)$')
    if saved_epoch == '' or saved_epoch == epoch then
        return {saved_epoch, tonumber(saved_offset), 1}
    end
end

if version and epoch and last_version then
    local last = redis.call('HMGET', KEYS[1], 'version_epoch', 'offset')
    -- Compared as text: they may be beyond what a number of this language holds exactly.
    local above = #version > #last_version or #version == #last_version and version > last_version
    if not above and (version_epoch == '' or version_epoch == last[1]) then
        return {epoch, tonumber(last[2]) or 0, 2}
    end
end

local function begin()
    redis.call('HSET', KEYS[1], 'epoch', candidate, 'offset', 0, 'lineage', LINEAGE)
    if last_version then
        redis.call('HDEL', KEYS[1], 'version', 'version_epoch')
    end
    redis.call('DEL', KEYS[2])
    return candidate
end

local function append()
    local offset = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'offset', 1))
    local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '=', size, offset .. '-0', 'b', body, 't', time)
    return offset, type(added) == 'string'
end

epoch = epoch or begin()
local offset, added = append()
if not added then
    -- The stream is ahead of its metadata, or no stream: somebody put back one of the two keys. Not the same epoch, then.
    epoch = begin()
    offset = append()
end

if version then
    redis.call('HSET', KEYS[1], 'version', version, 'version_epoch', version_epoch)
end
redis.call('PEXPIRE', KEYS[2], ttl)
redis.call('PEXPIRE', KEYS[1], meta_ttl)
local heard = redis.call('PUBLISH', channel, '1p:' .. epoch .. ':' .. offset .. ':' .. time .. ':' .. body)
if KEYS[3] then
    redis.call('SET', KEYS[3], epoch .. ':' .. offset, 'PX', window)
end
return {epoch, tonumber(offset), 0, heard}
