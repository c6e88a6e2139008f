-- Bring back what a worker remembers of a user's session, where this server has lost it. What is there is newer, and stays.
--
-- KEYS  mark       there as long as any user may have a session
--       session    hash
-- ARGV  fresh      (not used: a session has no history that could fork)
--       ttl        how long a session lives after it was last touched, in milliseconds
--       control    name of the pub/sub of all workers
--       most       fields that a session may have
--       then for each field: field, value, how many others speak of the same, and these
-- Gives how many fields were brought back.

local ttl, control, most = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

-- First all are compared with what is there, so that none of them stands in the way of another.
local missing, at = {}, 5
while at <= #ARGV do
    local others = tonumber(ARGV[at + 2])
    local free = redis.call('HEXISTS', KEYS[2], ARGV[at]) == 0
    for i = at + 3, at + 2 + others do
        free = free and redis.call('HEXISTS', KEYS[2], ARGV[i]) == 0
    end
    if free then
        missing[#missing + 1] = at
    end
    at = at + 3 + others
end

local set = math.min(#missing, most - redis.call('HLEN', KEYS[2]))
for i = 1, set do
    redis.call('HSET', KEYS[2], ARGV[missing[i]], ARGV[missing[i] + 1])
end

if set > 0 then
    redis.call('PEXPIRE', KEYS[2], ttl)
    -- It may be the mark of others that is still there: it has to outlive this session too.
    local marked = redis.call('PTTL', KEYS[1])
    if marked < ttl then
        redis.call('SET', KEYS[1], '1', 'PX', 2 * ttl)
        if marked == -2 then
            redis.call('PUBLISH', control, '1s::0:0:')
        end
    end
end
return set
