-- All changes to the ledger. Each operation is atomic and safe to repeat.
--
-- KEYS[1]  the job's hash; the job's other keys are this name with a suffix
-- KEYS[2]  the set of live jobs
-- KEYS[3]  the hash of webhooks to be called: call -> how its job ended; the sorted set with the suffix :due has the
--          time of each call (milliseconds)
-- ARGV[1]  operation; the rest are its arguments
--
--   <job>            hash: spec, destination, state, counters, times
--   <job>:done       bitmap: shards that are done
--   <job>:leases     sorted set: shard -> expiry (milliseconds, server's clock)
--   <job>:holders    hash: shard -> fence|worker
--   <job>:retry      sorted set: shard -> not before (milliseconds)
--   <job>:attempts   hash: shard -> claims so far, not counting those lost with their worker;
--                    shard:lost -> the number lost with their worker; shard:by -> worker|worker|..., who failed it;
--                    shard:astray -> 1 if `repair` found it unassigned: it may have been made already
--   <job>:errors     hash: shard -> last error
--   <job>:failed     hash: shard -> error of a shard that was given up
--   <job>:progress   hash: shard -> samples made under its lease
--   <job>:wakeups    hash: token -> sent|taken|sent_at|held_until|holder
--   <job>:forgotten  for a minute after `delete`: the job was deleted on purpose, not lost
--
-- Redis does not roll back a script when one of its commands is refused (an ACL, a full disk), and keys can be lost (an
-- eviction policy, a failover). So writes are ordered such that stopping after any of them is harmless: a shard is
-- added to its new place before it is removed from the old one, and counters are updated last. `repair` repairs the
-- rest. Its invariant: every shard is done, given up, leased, waiting for another attempt or not begun.
--
-- Times come from the server, so no worker's clock matters. A fence is a number that grows with every claim. A call by
-- an old holder, whose lease went to another worker, is recognized by its fence.

local job, live, webhooks = KEYS[1], KEYS[2], KEYS[3]
-- Attempts are failures and crashes of the worker's process. Losses are workers that vanished, which is seldom the
-- shard's fault.
local MAX_ATTEMPTS, MAX_LOSSES = 3, 5
-- Waiting shards among which a worker looks for one that it has not failed itself.
local MOST_LOOKED_AT = 20
local FINALISE = '-1'
local SUFFIXES = {':done', ':leases', ':holders', ':retry', ':attempts', ':errors', ':failed', ':progress', ':wakeups'}
-- The schedule that submitted the job and the webhook that is called at its end: a resume keeps both.
local KEPT = {'schedule', 'webhook'}
local TOLD = {
  'id', 'destination', 'generator', 'digest', 'schedule', 'webhook', 'count', 'samples_done', 'shards', 'shards_done',
  'bytes_done', 'queued_at', 'running_at', 'error',
}
local RETENTION_S = 30 * 24 * 3600
local PREPARATION_S = 3600
local REMEMBERED_S = 60

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function field(name)
  return redis.call('HGET', job, name)
end

local function number(name)
  return tonumber(field(name) or '0')
end

local function text(value)
  return string.format('%.0f', value)
end

local function split(value)
  local parts = {}
  for part in string.gmatch(value, '[^|]+') do parts[#parts + 1] = part end
  return parts
end

local function is_live(state)
  return state == 'queued' or state == 'running'
end

-- Records how the job ended, for the workers that call webhooks. In the same script call, so that none is lost.
local function note_webhook(state)
  if not field('webhook') then return end
  local now = text(now_ms())
  local call = field('id') .. '@' .. now
  local ended = {state = state, ended_at = now}
  for _, name in ipairs(TOLD) do ended[name] = field(name) or nil end
  redis.call('HSET', webhooks, call, cjson.encode(ended))
  redis.call('ZADD', webhooks .. ':due', now, call)
end

local function enter(state)
  local id = field('id')
  if is_live(state) then
    redis.call('SADD', live, id)
    redis.call('HSET', job, 'state', state, state .. '_at', text(now_ms()))
  else
    if state == 'done' then redis.call('HDEL', job, 'held_at', 'error') end
    note_webhook(state)
    redis.call('HSET', job, 'state', state, state .. '_at', text(now_ms()))
    redis.call('SREM', live, id)
    redis.call('DEL', job .. ':leases', job .. ':holders', job .. ':progress', job .. ':wakeups')
    redis.call('EXPIRE', job, RETENTION_S)
    for _, suffix in ipairs(SUFFIXES) do redis.call('EXPIRE', job .. suffix, RETENTION_S) end
  end
end

local function release(shard)
  redis.call('ZREM', job .. ':leases', shard)
  redis.call('HDEL', job .. ':holders', shard)
  redis.call('HDEL', job .. ':progress', shard)
end

local function holds(shard, fence)
  local holder = redis.call('HGET', job .. ':holders', shard)
  return holder and split(holder)[1] == fence
end

local function holder_of(shard)
  local holder = redis.call('HGET', job .. ':holders', shard)
  return holder and split(holder)[2] or 'unknown'
end

local function tally(shard, kind)
  return tonumber(redis.call('HGET', job .. ':attempts', shard .. (kind or '')) or '0')
end

local function forget_attempts(shard)
  redis.call('HDEL', job .. ':attempts', shard, shard .. ':lost', shard .. ':by', shard .. ':astray')
  redis.call('HDEL', job .. ':errors', shard)
end

local function contains(list, wanted)
  for _, each in ipairs(split(list)) do
    if each == wanted then return true end
  end
  return false
end

-- Puts a shard back after an attempt, or gives it up after the last one. `lost`: its worker vanished.
local function put_back(shard, worker, message, delay_ms, lost)
  if shard == FINALISE or redis.call('GETBIT', job .. ':done', shard) == 1 then
    release(shard)
    return 'retry'
  end
  local attempts, losses = tally(shard), tally(shard, ':lost')
  if lost then attempts, losses = attempts - 1, losses + 1 end
  if attempts >= MAX_ATTEMPTS or losses >= MAX_LOSSES then
    redis.call('HSET', job .. ':failed', shard, message)
    release(shard)
    forget_attempts(shard)
    return 'failed'
  end
  redis.call('ZADD', job .. ':retry', text(now_ms() + delay_ms), shard)
  release(shard)
  redis.call('HSET', job .. ':errors', shard, message)
  local by = redis.call('HGET', job .. ':attempts', shard .. ':by')
  if not by or not contains(by, worker) then
    redis.call('HSET', job .. ':attempts', shard .. ':by', by and by .. '|' .. worker or worker)
  end
  if lost then redis.call('HSET', job .. ':attempts', shard, attempts, shard .. ':lost', losses) end
  return 'retry'
end

-- Puts a shard back as if it had not been claimed.
local function return_untouched(shard)
  if shard ~= FINALISE then redis.call('ZADD', job .. ':retry', text(now_ms()), shard) end
  release(shard)
  if shard ~= FINALISE then redis.call('HINCRBY', job .. ':attempts', shard, -1) end
end

local function expire_leases()
  local expired = redis.call('ZRANGEBYSCORE', job .. ':leases', '-inf', text(now_ms()), 'LIMIT', 0, 100)
  for _, shard in ipairs(expired) do
    local worker = holder_of(shard)
    put_back(shard, worker, 'the worker ' .. worker .. ' was lost while it made this shard', 0, true)
    redis.call('HINCRBY', job, 'leases_lost', 1)
  end
end

-- Whether this worker has failed the shard and another, which has not, is working on this job.
local function is_for_others(shard, worker)
  local by = redis.call('HGET', job .. ':attempts', shard .. ':by')
  if not by or not contains(by, worker) then return false end
  for _, entry in ipairs(redis.call('HVALS', job .. ':wakeups')) do
    local parts = split(entry)
    local other = string.match(parts[5], '^(.*)/')
    if tonumber(parts[4]) > now_ms() and other and not contains(by, other) then return true end
  end
  return false
end

-- The next shard to try again, or nil. It is not removed from the set.
local function next_retry(worker)
  local due = redis.call('ZRANGEBYSCORE', job .. ':retry', '-inf', text(now_ms()), 'LIMIT', 0, MOST_LOOKED_AT)
  for _, shard in ipairs(due) do
    if not is_for_others(shard, worker) then return shard end
  end
  return nil
end

-- The next shard that was never claimed, or nil; the cursor is not moved past it. Skips shards that are done already,
-- which a resume has marked in the bitmap.
local function next_fresh()
  local cursor, shards = number('cursor'), number('shards')
  while cursor < shards do
    if redis.call('GETBIT', job .. ':done', cursor) == 0 then return text(cursor) end
    if cursor % 8 == 7 then
      local free = redis.call('BITPOS', job .. ':done', 0, math.floor((cursor + 1) / 8))
      cursor = free < 0 and redis.call('STRLEN', job .. ':done') * 8 or math.max(free, cursor + 1)
    else
      cursor = cursor + 1
    end
  end
  redis.call('HSET', job, 'cursor', text(math.min(cursor, shards)))
  return nil
end

-- The number of shards that are done, of all or of the first `first`. A user whose ACL lacks BITCOUNT gets the counter,
-- which is right unless Redis has lost keys.
local function count_done(first)
  local count
  if first then count = redis.pcall('BITCOUNT', job .. ':done', 0, first - 1, 'BIT')
  else count = redis.pcall('BITCOUNT', job .. ':done') end
  if type(count) == 'table' then return number('shards_done') end
  return count
end

local function shards_left()
  return number('shards') - count_done() - redis.call('HLEN', job .. ':failed')
end

local function lease(shard, worker, ttl_ms)
  local fence = math.max(number('fence') + 1, now_ms() * 1000)
  redis.call('HSET', job, 'fence', text(fence))
  redis.call('ZADD', job .. ':leases', text(now_ms() + ttl_ms), shard)
  redis.call('HSET', job .. ':holders', shard, text(fence) .. '|' .. worker)
  return text(fence)
end

local operations = {}

-- begin(field, value, ...): adds a job that is not live; returns 'new', or the state of a live job.
-- If two clients add it at the same time, the later one wins: the field 'entry' tells them apart.
function operations.begin(arguments)
  if redis.call('TYPE', job).ok ~= 'hash' then redis.call('DEL', job) end
  local state = field('state')
  if state and is_live(state) then return state end
  local kept = {}
  for _, name in ipairs(KEPT) do kept[name] = field(name) or nil end
  redis.call('DEL', job, job .. ':forgotten')
  for _, suffix in ipairs(SUFFIXES) do redis.call('DEL', job .. suffix) end
  for name, value in pairs(kept) do redis.call('HSET', job, name, value) end
  redis.call('HSET', job, 'state', 'preparing', 'cursor', '0', 'shards_done', '0', 'samples_done', '0', unpack(arguments))
  redis.call('EXPIRE', job, PREPARATION_S)
  return 'new'
end

local function is_entered_by(entry)
  return field('state') == 'preparing' and field('entry') == entry
end

-- mark_done(entry, shard, samples, ...): shards that a resume found at the destination.
function operations.mark_done(arguments)
  if not is_entered_by(arguments[1]) then return 0 end
  for position = 2, #arguments, 2 do
    if redis.call('SETBIT', job .. ':done', arguments[position], 1) == 0 then
      redis.call('HINCRBY', job, 'shards_done', 1)
      redis.call('HINCRBY', job, 'samples_done', arguments[position + 1])
    end
  end
  redis.call('EXPIRE', job .. ':done', PREPARATION_S)
  return number('shards_done')
end

-- want(entry, shard, ...): the selected shards of a job that makes a selection only; its cursor is at the end.
function operations.want(arguments)
  if not is_entered_by(arguments[1]) then return 0 end
  -- The score of a retry is a time. A shard's index is a time in the past, and keeps the order.
  for position = 2, #arguments do redis.call('ZADD', job .. ':retry', arguments[position], arguments[position]) end
  redis.call('EXPIRE', job .. ':retry', PREPARATION_S)
  return #arguments - 1
end

-- open(entry, state): workers may start on the job ('queued'), or it is complete already ('done'); 'stale' if another
-- client has added it since.
function operations.open(arguments)
  if not is_entered_by(arguments[1]) then return 'stale' end
  redis.call('PERSIST', job)
  redis.call('PERSIST', job .. ':done')
  redis.call('PERSIST', job .. ':retry')
  redis.call('HSET', job, 'samples_found', field('samples_done'))
  enter(arguments[2])
  return arguments[2]
end

-- settle(engine, batch): the first slice decides for all; returns the engine and batch of the job.
function operations.settle(arguments)
  redis.call('HSETNX', job, 'engine', arguments[1])
  if redis.call('HSETNX', job, 'batch', arguments[2]) == 0 and field('batch') == '0' then
    redis.call('HSET', job, 'batch', arguments[2])
  end
  return {field('engine'), field('batch')}
end

-- claim(worker, ttl_ms): {'shard', index, fence, attempt} | {'finalise', fence} | {'wait'} | {'stop', state}
function operations.claim(arguments)
  local worker, ttl_ms = arguments[1], tonumber(arguments[2])
  local state = field('state')
  if not state or not is_live(state) then return {'stop', state or 'unknown'} end
  expire_leases()
  local again = next_retry(worker)
  local shard = again or next_fresh()
  if shard then
    if state == 'queued' then enter('running') end
    local fence = lease(shard, worker, ttl_ms)
    if again then redis.call('ZREM', job .. ':retry', shard) else redis.call('HSET', job, 'cursor', text(shard + 1)) end
    local attempt = redis.call('HINCRBY', job .. ':attempts', shard, 1)
    return {'shard', shard, fence, text(attempt + tally(shard, ':lost') + tally(shard, ':astray'))}
  end
  if shards_left() > 0 or redis.call('ZSCORE', job .. ':leases', FINALISE) then return {'wait'} end
  return {'finalise', lease(FINALISE, worker, ttl_ms)}
end

-- renew(ttl_ms, token, holder, shard, fence, samples, ...): {state, lost shard, ...}; an empty token: no wake-up
function operations.renew(arguments)
  local ttl_ms, token, holder = tonumber(arguments[1]), arguments[2], arguments[3]
  local answer = {field('state') or 'unknown'}
  if not is_live(answer[1]) then return answer end
  local entry = token ~= '' and redis.call('HGET', job .. ':wakeups', token)
  if entry then
    local parts = split(entry)
    if parts[5] == holder then
      parts[4] = text(now_ms() + ttl_ms)
      redis.call('HSET', job .. ':wakeups', token, table.concat(parts, '|'))
    end
  end
  for position = 4, #arguments, 3 do
    local shard, fence, samples = arguments[position], arguments[position + 1], arguments[position + 2]
    if holds(shard, fence) then
      redis.call('ZADD', job .. ':leases', text(now_ms() + ttl_ms), shard)
      if samples ~= '0' then redis.call('HSET', job .. ':progress', shard, samples) end
    else
      answer[#answer + 1] = shard
    end
  end
  return answer
end

-- Whether the shards of a pack of receipts (PACK in a row), to which this one belongs, are all done.
local PACK = 1024
local function fills_pack(shard)
  local first = math.floor(tonumber(shard) / PACK) * PACK / 8
  local last = first + PACK / 8 - 1
  if redis.call('STRLEN', job .. ':done') <= last then return false end
  return redis.pcall('BITCOUNT', job .. ':done', first, last) == PACK
end

-- commit(shard, fence, samples, bytes, counter, amount, ...): 'done' | 'filled' | 'already' | 'stale' | 'stop'
-- 'filled' is 'done', and with it all shards of a pack.
function operations.commit(arguments)
  local shard, fence, samples, size = arguments[1], arguments[2], arguments[3], arguments[4]
  local state = field('state')
  if not state or not is_live(state) then return 'stop' end
  local mine = holds(shard, fence)
  if redis.call('GETBIT', job .. ':done', shard) == 1 then
    if mine then release(shard) end
    return 'already'
  end
  if not mine then return 'stale' end
  redis.call('SETBIT', job .. ':done', shard, 1)
  release(shard)
  redis.call('HDEL', job .. ':failed', shard)
  redis.call('HDEL', job, 'held_at', 'error')
  forget_attempts(shard)
  redis.call('HINCRBY', job, 'shards_done', 1)
  redis.call('HINCRBY', job, 'samples_done', samples)
  redis.call('HINCRBY', job, 'bytes_done', size)
  for position = 5, #arguments, 2 do
    redis.call('HINCRBYFLOAT', job, arguments[position], arguments[position + 1])
  end
  return fills_pack(shard) and 'filled' or 'done'
end

-- fail(shard, fence, message, delay_ms): 'retry' | 'failed' | 'stale'
function operations.fail(arguments)
  local shard, fence = arguments[1], arguments[2]
  if not is_live(field('state') or '') or not holds(shard, fence) then return 'stale' end
  return put_back(shard, holder_of(shard), arguments[3], tonumber(arguments[4]), false)
end

-- give_back(shard, fence): the holder leaves before the shard is done; it does not count as an attempt.
function operations.give_back(arguments)
  local shard, fence = arguments[1], arguments[2]
  if not is_live(field('state') or '') or not holds(shard, fence) then return 'stale' end
  return_untouched(shard)
  return 'retry'
end

-- finish(fence): the manifest is written, or shards were given up: 'done' | 'failed' | 'stale'
function operations.finish(arguments)
  local state = field('state')
  if state == 'done' or state == 'failed' then return state end
  if not state or not is_live(state) or not holds(FINALISE, arguments[1]) then return 'stale' end
  enter(redis.call('HLEN', job .. ':failed') > 0 and 'failed' or 'done')
  return field('state')
end

-- abandon(message): the job cannot be carried out at all.
function operations.abandon(arguments)
  if not is_live(field('state') or '') then return field('state') or 'unknown' end
  redis.call('HSET', job, 'error', arguments[1])
  enter('failed')
  return 'failed'
end

-- hold(shard, fence, message, patience_ms): 'held' | 'failed' | 'stale'
-- The job's store fails, which is not the shard's fault: the shard is put back, and this does not count as an attempt.
-- The job fails once the store has failed for patience_ms without a shard being committed. `shard` may be empty.
function operations.hold(arguments)
  local shard, fence, message, patience_ms = arguments[1], arguments[2], arguments[3], tonumber(arguments[4])
  if not is_live(field('state') or '') then return 'stale' end
  if shard ~= '' then
    if not holds(shard, fence) then return 'stale' end
    return_untouched(shard)
  end
  redis.call('HSET', job, 'error', message)
  redis.call('HSETNX', job, 'held_at', text(now_ms()))
  if now_ms() - number('held_at') < patience_ms then return 'held' end
  enter('failed')
  return 'failed'
end

-- record_error(message): why a worker leaves a live job to others. Ignored while any shard is leased; deleted when a shard
-- is committed.
function operations.record_error(arguments)
  if is_live(field('state') or '') and redis.call('ZCARD', job .. ':leases') == 0 then redis.call('HSET', job, 'error', arguments[1]) end
  return field('state') or 'unknown'
end

-- cancel(): 'cancelled', or the state of a job that had ended.
function operations.cancel()
  local state = field('state')
  if not state or not is_live(state) then return state or 'unknown' end
  enter('cancelled')
  return 'cancelled'
end

-- delete(): deletes a job that is not live: 'forgotten', or the state of a live job, or 'unknown'
function operations.delete()
  local state = field('state')
  if not state or is_live(state) then return state or 'unknown' end
  redis.call('SET', job .. ':forgotten', '1', 'EX', REMEMBERED_S)
  redis.call('DEL', job)
  for _, suffix in ipairs(SUFFIXES) do redis.call('DEL', job .. suffix) end
  return 'forgotten'
end

-- wakeups(workers, grace_ms): {token, serial, ...}, those to send; they count as sent from now.
-- A wake-up counts as lost if it was sent more than grace_ms ago and no worker has taken it.
function operations.wakeups(arguments)
  local grace_ms = tonumber(arguments[2])
  if not is_live(field('state') or '') then return {} end
  local parallel = number('parallel')
  local wanted = math.max(1, math.min(tonumber(arguments[1]), shards_left(), parallel > 0 and parallel or math.huge))
  local missing = {}
  for token = 0, wanted - 1 do
    local entry = redis.call('HGET', job .. ':wakeups', token)
    local parts = split(entry or '0|0|0|0|nobody')
    local sent, taken = tonumber(parts[1]), tonumber(parts[2])
    local held = tonumber(parts[4]) > now_ms()
    local waiting = sent > taken and now_ms() - tonumber(parts[3]) < grace_ms
    if not held and not waiting then
      parts[1], parts[3] = text(sent + 1), text(now_ms())
      redis.call('HSET', job .. ':wakeups', token, table.concat(parts, '|'))
      missing[#missing + 1] = text(token)
      missing[#missing + 1] = parts[1]
    end
  end
  return missing
end

-- take(token, serial, holder, ttl_ms): 'taken' | 'held' | 'stale' | 'stop'
-- The first message of a token that arrives is taken, and makes its duplicates stale.
function operations.take(arguments)
  local token, serial, holder, ttl_ms = arguments[1], tonumber(arguments[2]), arguments[3], tonumber(arguments[4])
  if not is_live(field('state') or '') then return 'stop' end
  local entry = redis.call('HGET', job .. ':wakeups', token)
  if not entry then return 'stale' end
  local parts = split(entry)
  if tonumber(parts[4]) > now_ms() and parts[5] ~= holder then return 'held' end
  if serial <= tonumber(parts[2]) then return 'stale' end
  parts[2], parts[4], parts[5] = parts[1], text(now_ms() + ttl_ms), holder
  redis.call('HSET', job .. ':wakeups', token, table.concat(parts, '|'))
  return 'taken'
end

-- return_wakeup(token, holder, again): the slice is over; returns the serial to send again, or '0'.
function operations.return_wakeup(arguments)
  local token, holder, again = arguments[1], arguments[2], arguments[3]
  local entry = redis.call('HGET', job .. ':wakeups', token)
  if not entry then return '0' end
  local parts = split(entry)
  if parts[5] ~= holder then return '0' end
  parts[4], parts[5] = '0', 'nobody'
  if again == '1' then parts[1], parts[3] = text(tonumber(parts[1]) + 1), text(now_ms()) end
  redis.call('HSET', job .. ':wakeups', token, table.concat(parts, '|'))
  return again == '1' and parts[1] or '0'
end

-- release_worker(worker): a worker's new process gives back what its dead process held.
function operations.release_worker(arguments)
  local worker = arguments[1]
  local holders = redis.call('HGETALL', job .. ':holders')
  for position = 1, #holders, 2 do
    if split(holders[position + 1])[2] == worker then
      local message = 'the process of worker ' .. worker .. ' died while it made this shard: a crash, or out of memory'
      put_back(holders[position], worker, message, 0, false)
      redis.call('HINCRBY', job, 'leases_lost', 1)
    end
  end
  local wakeups = redis.call('HGETALL', job .. ':wakeups')
  for position = 1, #wakeups, 2 do
    local parts = split(wakeups[position + 1])
    if string.sub(parts[5], 1, #worker + 1) == worker .. '/' then
      parts[4], parts[5] = '0', 'nobody'
      redis.call('HSET', job .. ':wakeups', wakeups[position], table.concat(parts, '|'))
    end
  end
  return 'released'
end

-- A function that returns whether a shard is in the job's selection; without a selection, every shard is.
local function selected()
  local selection = field('selection')
  if not selection then return function() return true end end
  local ranges = {}
  for part in string.gmatch(selection, '[^,]+') do
    local first, last = string.match(part, '^(%d+)-?(%d*)$')
    ranges[#ranges + 1] = {tonumber(first), tonumber(last ~= '' and last or first)}
  end
  return function(shard)
    for _, range in ipairs(ranges) do
      if range[1] <= shard and shard <= range[2] then return true end
    end
    return false
  end
end

-- Corrects the counters from the bitmap.
local function recount(spec)
  local shards = count_done()
  local last = math.ceil(spec.count / spec.shard_size) - 1
  local missing = (last + 1) * spec.shard_size - spec.count
  local samples = shards * spec.shard_size - redis.call('GETBIT', job .. ':done', last) * missing
  if number('shards_done') ~= shards or number('samples_done') ~= samples then
    redis.call('HSET', job, 'shards_done', text(shards), 'samples_done', text(samples))
  end
end

-- repair(id, ttl_ms, from): {state, repaired, next}
-- Restores the invariants of a live job: it is in the set of live jobs, its counters are right, and every shard is
-- done, given up, leased, waiting for another attempt or not begun. Checks MOST_REPAIRED shards, beginning with `from`;
-- 'next' is where to continue, or -1.
local MOST_REPAIRED = 20000
function operations.repair(arguments)
  local id, ttl_ms, from = arguments[1], tonumber(arguments[2]), tonumber(arguments[3])
  local state = field('state') or 'unknown'
  if not is_live(state) then
    if redis.call('SISMEMBER', live, id) == 1 then redis.call('SREM', live, id) end
    return {state, '0', '-1'}
  end
  if redis.call('SISMEMBER', live, id) == 0 then redis.call('SADD', live, id) end
  local spec = cjson.decode(field('spec'))
  recount(spec)
  for _, shard in ipairs(redis.call('HKEYS', job .. ':failed')) do
    if redis.call('GETBIT', job .. ':done', shard) == 1 then redis.call('HDEL', job .. ':failed', shard) end
  end
  local begun, done, all = number('cursor'), 0, math.ceil(spec.count / spec.shard_size)
  if field('selection') then
    done = count_done()
  else
    all = begun
    if begun > 0 then done = count_done(begun) end
  end
  local known = done + redis.call('HLEN', job .. ':failed') + redis.call('ZCARD', job .. ':retry')
  known = known + redis.call('ZCARD', job .. ':leases') - (redis.call('ZSCORE', job .. ':leases', FINALISE) and 1 or 0)
  if from == 0 and known >= begun then return {state, '0', '-1'} end
  local repaired, is_wanted = 0, selected()
  local upto = math.min(all, from + MOST_REPAIRED)
  for index = from, upto - 1 do
    local shard = text(index)
    if is_wanted(index) and redis.call('GETBIT', job .. ':done', index) == 0
        and redis.call('HEXISTS', job .. ':failed', shard) == 0
        and not redis.call('ZSCORE', job .. ':leases', shard) and not redis.call('ZSCORE', job .. ':retry', shard) then
      repaired = repaired + 1
      if redis.call('HEXISTS', job .. ':holders', shard) == 1 then
        -- Its holder renews this lease; if it is gone, the lease expires.
        redis.call('ZADD', job .. ':leases', text(now_ms() + ttl_ms), shard)
      else
        redis.call('HSET', job .. ':attempts', shard .. ':astray', '1')
        redis.call('ZADD', job .. ':retry', '0', shard)
      end
    end
  end
  return {state, text(repaired), upto < all and text(upto) or '-1'}
end

-- turn(what, interval_ms): 1 for the first caller within an interval, 0 for the others. Belongs to no job.
function operations.turn(arguments)
  return redis.call('SET', live .. ':' .. arguments[1], 'taken', 'NX', 'PX', arguments[2]) and 1 or 0
end

-- identity(proposal): a unique id of this ledger; the first proposal wins. Belongs to no job.
function operations.identity(arguments)
  redis.call('SET', live .. ':ledger', arguments[1], 'NX')
  return redis.call('GET', live .. ':ledger')
end

-- status(): {fields, failed, progress, leased, retrying, errors, now}
function operations.status()
  return {
    redis.call('HGETALL', job),
    redis.call('HGETALL', job .. ':failed'),
    redis.call('HVALS', job .. ':progress'),
    redis.call('ZCARD', job .. ':leases'),
    redis.call('ZCARD', job .. ':retry'),
    redis.call('HVALS', job .. ':errors'),
    text(now_ms()),
  }
end

local name = table.remove(ARGV, 1)
return operations[name](ARGV)
