-- Change what outlives a user's connections, or only let it live on.
--
-- KEYS  mark       there as long as any user may have a session
--       session    hash; more of them when they are only to live on
-- ARGV  fresh      (not used: a session has no history that could fork)
--       ttl        how long a session lives after it was last touched, in milliseconds
--       control    name of the pub/sub of all workers
--       most       fields that a session may have
--       sets       how many fields are set
--       then field and value of each that is set, then the fields that are removed
-- Gives how many of the sessions are there now; -1 when one would have too many fields: then nothing was done.

local ttl, control, most, sets = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local first, removed = 6, 6 + 2 * sets

if sets > 0 then
    local size = redis.call('HLEN', KEYS[2])
    if size + sets > most then
        for i = first, removed - 1, 2 do
            size = size + 1 - redis.call('HEXISTS', KEYS[2], ARGV[i])
        end
        for i = removed, #ARGV do
            size = size - redis.call('HEXISTS', KEYS[2], ARGV[i])
        end
        if size > most then
            return -1
        end
    end
end

for i = first, removed - 1, 2 do
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
for i = removed, #ARGV do
    redis.call('HDEL', KEYS[2], ARGV[i])
end

local there = 0
for i = 2, #KEYS do
    there = there + redis.call('PEXPIRE', KEYS[i], ttl)
end
-- The mark outlives every session, and is written only now and then. Who has read that there is none must hear of the first.
local marked = there > 0 and redis.call('PTTL', KEYS[1]) or ttl
if marked < ttl then
    redis.call('SET', KEYS[1], '1', 'PX', 2 * ttl)
    if marked == -2 then
        redis.call('PUBLISH', control, '1s::0:0:')
    end
end
return there
